"""Trained networks in the formats of other libraries: timm and the Hugging Face hub, transformers, ONNX."""
