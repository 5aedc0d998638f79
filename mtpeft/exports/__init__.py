"""A task leaves mtpeft: as a timm checkpoint, an ONNX model, a program of torch.export, or a folder of Hugging Face PEFT."""
