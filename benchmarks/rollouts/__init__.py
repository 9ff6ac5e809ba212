"""`make simulate`: how often healthy rollouts are rolled back and how fast bad ones are, by our judge and by others."""
