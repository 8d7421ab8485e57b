"""Networks: trunks with expert branches, classification heads, the router, and what they cost."""
