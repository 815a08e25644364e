"""The networks: layers, drop path, CPU kernels, weight conversion, complexity and structure."""
