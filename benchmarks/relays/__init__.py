"""What one would write in an afternoon with the usual libraries: the peers that are no product."""
