"""How well clusters agree with classes that were never shown.

Clusters have no names. Hungarian matching gives each cluster the class that makes most images right (Kuhn, 1955; Yang et al., CVPR 2010); after
that accuracy, precision and F1 mean what they mean for a classifier. NMI, AMI and ARI need no matching. P2OT (arXiv 2401.09266, section 5.1)
prints the class-averaged accuracy as "ACC", which a clustering that ignores the tail cannot win.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lt_pipeline.errors import LongTailError

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClusterScores:
    """Agreement of K clusters with C classes, as fractions; NaN where a class has no image.

    Attributes:
        accuracy: images whose cluster is matched with their class.
        macro_accuracy: mean recall of the classes that have images.
        macro_precision: mean over the classes that have images or are matched with a cluster that has some; 0 for a class that nothing is taken for.
        macro_f1: likewise.
        nmi: normalised mutual information, arithmetic mean of the entropies.
        ami: the same, adjusted for chance.
        ari: adjusted Rand index.
        class_of_cluster: the class each cluster is matched with, int64 [K]; -1 without one.
        recall: of each class [C].
        precision: of each class [C].
        f1: of each class [C].
    """

    accuracy: float
    macro_accuracy: float
    macro_precision: float
    macro_f1: float
    nmi: float
    ami: float
    ari: float
    class_of_cluster: Integers
    recall: Floats
    precision: Floats
    f1: Floats


def votes(clusters: ArrayLike, labels: ArrayLike, num_clusters: int, num_classes: int) -> Integers:
    """Return how many images of each class lie in each cluster, int64 [K, C].

    Args:
        clusters: of each image, int [N] in 0..K-1.
        labels: of each image, int [N] in 0..C-1.
        num_clusters: K.
        num_classes: C.

    Raises:
        LongTailError: if there is no image, lengths differ, or a number is out of range.
    """
    found, true = np.asarray(clusters, np.int64), np.asarray(labels, np.int64)
    if len(found) != len(true) or not len(true):
        raise LongTailError(f"Clusters of {len(found)} images and labels of {len(true)}; both must be of the same images, at least one.")
    for what, values, size in (("cluster", found, num_clusters), ("label", true, num_classes)):
        if values.min() < 0 or values.max() >= size:
            raise LongTailError(f"The {what} numbers run from {values.min()} to {values.max()}; allowed are 0 to {size - 1}.")
    return np.bincount(found * num_classes + true, minlength=num_clusters * num_classes).reshape(num_clusters, num_classes)


def match_clusters(table: Integers) -> Integers:
    """Return the class of each cluster, int64 [K], so that as many images as possible agree; -1 for clusters beyond the number of classes.

    Args:
        table: images of each class in each cluster [K, C].
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(table.sum() - table.astype(np.float64))  # clusters as rows: ties break as they are published
    matched = np.full(len(table), -1, np.int64)
    matched[rows] = columns
    return matched


def score_clusters(clusters: ArrayLike, labels: ArrayLike, num_clusters: int, num_classes: int, unmatched_class: int = -1) -> ClusterScores:
    """Score a clustering against labels.

    Args:
        clusters: of each image, int [N].
        labels: of each image, int [N].
        num_clusters: K; empty clusters are allowed.
        num_classes: C; absent classes are left out of every mean.
        unmatched_class: what images of unmatched clusters count as; -1 is wrong, P2OT's published evaluation says class 0.

    Raises:
        LongTailError: see :func:`votes`.
    """
    from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, normalized_mutual_info_score

    table = votes(clusters, labels, num_clusters, num_classes)
    matched = match_clusters(table)
    taken = np.where(matched >= 0, matched, unmatched_class)
    confusion = np.zeros((num_classes, num_classes), np.int64)  # rows: what an image is taken for, columns: what it is
    np.add.at(confusion, taken[taken >= 0], table[taken >= 0])
    right, answered, present = np.diag(confusion), confusion.sum(1), table.sum(0)
    recall = _ratio(right, present)
    precision = _ratio(right, answered)
    f1 = _ratio(2 * right, answered + present)
    counted = (present > 0) | (answered > 0)
    true = np.asarray(labels)
    found = np.asarray(clusters)
    return ClusterScores(
        accuracy=float(right.sum() / table.sum()),
        macro_accuracy=float(np.nanmean(recall)),
        macro_precision=float(np.nan_to_num(precision[counted]).mean()),
        macro_f1=float(f1[counted].mean()),
        nmi=float(normalized_mutual_info_score(true, found)),
        ami=float(adjusted_mutual_info_score(true, found)),
        ari=float(adjusted_rand_score(true, found)),
        class_of_cluster=matched,
        recall=recall,
        precision=precision,
        f1=f1,
    )


def head_medium_tail(recall: Floats, train_counts: ArrayLike) -> tuple[float, float, float] | None:
    """Return the mean recall of the 30 % largest, the next 40 % and the 30 % smallest classes, as P2OT groups them; None below 4 classes.

    Args:
        recall: of each class [C]; NaN is left out.
        train_counts: training images of each class [C]; equal ones keep their order.
    """
    size = len(recall)
    first, middle = int(0.3 * size), int(0.4 * size)
    if not first:
        return None
    ordered = recall[np.argsort(-np.asarray(train_counts), kind="stable")]
    parts = ordered[:first], ordered[first : first + middle], ordered[-first:]
    head, medium, tail = (float(np.nanmean(part)) if np.isfinite(part).any() else float("nan") for part in parts)
    return head, medium, tail


@dataclass(frozen=True)
class ClusterSizes:
    """How images spread over K clusters.

    Attributes:
        sizes: images in each cluster, int64 [K].
        empty: clusters without an image.
        entropy: of the sizes, divided by log K: 1 where all are equal, 0 where one holds everything.
    """

    sizes: Integers
    empty: int
    entropy: float

    def alarm(self, least_entropy: float = 0.5, most_empty: float = 0.2) -> str | None:
        """Return what is wrong where the clustering has collapsed, None where it has not.

        Args:
            least_entropy: below it a few clusters hold nearly everything; an imbalance of 100 over 100 classes has 0.89.
            most_empty: share of empty clusters above which there is an alarm.
        """
        problems = []
        if self.empty > most_empty * len(self.sizes):
            problems.append(f"{self.empty} of {len(self.sizes)} clusters are empty")
        if self.entropy < least_entropy:
            problems.append(f"the entropy of the cluster sizes is {self.entropy:.2f} of its largest value")
        return " and ".join(problems) or None


def cluster_sizes(clusters: ArrayLike, num_clusters: int) -> ClusterSizes:
    """Return sizes, empty clusters and entropy of an assignment, int [N] in 0..K-1."""
    sizes = np.bincount(np.asarray(clusters, np.int64), minlength=num_clusters)
    shares = sizes[sizes > 0] / sizes.sum()
    entropy = -float((shares * np.log(shares)).sum()) / float(np.log(num_clusters)) if num_clusters > 1 else 0.0
    return ClusterSizes(sizes, int((sizes == 0).sum()), abs(entropy))  # not -0


def spherical_k_means(
    train: NDArray[np.float32], others: list[NDArray[np.float32]], num_clusters: int, seed: int, repeats: int = 3
) -> tuple[Integers, list[Integers]]:
    """Return the k-means clusters of features by direction, and where the nearest centre puts further features: what every method must beat.

    Args:
        train: features [N, D] that are clustered.
        others: further features [M, D].
        num_clusters: K.
        seed: of the starts.
        repeats: starts, of which the best is kept.

    Raises:
        LongTailError: if there are fewer images than clusters.
    """
    from sklearn.cluster import KMeans
    from sklearn.preprocessing import normalize

    if num_clusters > len(train):
        raise LongTailError(f"{len(train)} images cannot make {num_clusters} clusters.")
    model = KMeans(num_clusters, n_init=repeats, max_iter=100, random_state=seed).fit(normalize(train))
    centres = normalize(model.cluster_centers_)
    first, *rest = (np.argmax(normalize(features) @ centres.T, axis=1).astype(np.int64) for features in (train, *others))
    return first, rest


def _ratio(part: Integers, whole: Integers) -> Floats:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
