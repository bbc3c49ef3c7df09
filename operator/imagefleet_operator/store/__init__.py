"""What the operator remembers of the cluster: compact records, kept current by watch events, lists and own
writes."""
