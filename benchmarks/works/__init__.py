"""What is measured: each file one kind of work, `catalogue` the list of all."""
