"""Ablation study from ResNet-50 to ConvNeXt: `python run_roadmap.py +study=roadmap`, or `--help`."""

from roadmap.cli import main

if __name__ == "__main__":
    main()
