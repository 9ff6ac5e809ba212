"""What the reports of all sidecars come to: who calls which version of which model, and how it is. Pure."""
