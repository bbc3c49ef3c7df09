"""A real Kubernetes control plane and a node that runs pods as processes, for tests and for the demo."""
