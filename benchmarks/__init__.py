"""What a hop through meshproxy costs, beside what one would take instead, in one run on one machine. See README.md."""
