"""What a mesh needs in a cluster, as objects of Kubernetes. Pure: from what an operator chooses to documents."""
