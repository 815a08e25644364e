# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # An ablation study in ten minutes
#
# This notebook trains some steps from ResNet to ConvNeXt on small images of digits, reads the report, and then adds a step of its own. It runs on a CPU or
# on any GPU. Open it in a clone of the repository; the next cell installs the package if it is absent.

# %%
from importlib.util import find_spec

if find_spec("roadmap") is None:
    # %pip install --quiet ..
    pass

# %% [markdown]
# ## The steps
#
# A step is the base, a small ResNet, with all changes up to and including its own.

# %%
import pandas as pd

import roadmap

costs = []
for step in roadmap.steps():
    model = roadmap.create_model(step, base="nano", num_classes=10, in_chans=1)
    costs.append({"step": step, "parameters": sum(parameter.numel() for parameter in model.parameters())})
pd.DataFrame(costs)

# %% [markdown]
# ## Train three steps
#
# One command trains every step with two seeds, for ten epochs, and writes a report. It skips what is finished, so it can be repeated.

# %%
# !roadmap -m +step=training_recipe,depthwise_conv,inverted_bottleneck seed=0,1 study=first

# %%
table = pd.read_csv("reports/first/roadmap.csv")
table[["label", "n_seeds", "top1_mean", "top1_std", "delta", "delta_low", "delta_high", "verdict"]].round(2)

# %%
from IPython.display import Image

Image("reports/first/roadmap.png", width=800)

# %% [markdown]
# Two seeds say little: the interval of each gain (`delta_low` to `delta_high`) is wide, and the verdict is "descriptive". With fewer than five seeds
# every verdict is "descriptive"; a gain or a loss needs more seeds. `reports/first/index.html` is the full report.
#
# ## A step of your own
#
# A transform is a YAML file that sets fields of the network or the recipe. A roadmap lists the transforms in order. This one has SiLU as its last step:

# %%
from pathlib import Path

files = {
    "conf/transform/silu.yaml": """# @package _global_
transforms:
  silu: {label: ReLU → SiLU}
network: {activation: torch.nn.SiLU}
""",
    "conf/roadmap/mine.yaml": """title: My roadmap
base: nano
steps:
  - training_recipe
  - depthwise_conv
  - silu
""",
}
for name, text in files.items():
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")

# %%
# !roadmap --config-dir conf roadmap=mine +study=roadmap study=mine seed=0,1

# %% [markdown]
# The runs of `training_recipe` were finished already: studies share their runs.

# %%
Image("reports/mine/roadmap.png", width=800)

# %% [markdown]
# ## Use a trained network

# %%
from PIL import Image as Picture
from sklearn.datasets import load_digits

trained = roadmap.load(next(Path("experiments/runs").glob("silu-*-seed0")))
pixels, labels = load_digits(return_X_y=True)
images = [Picture.fromarray((image * 15.9).astype("uint8")) for image in pixels[:8].reshape(8, 8, 8)]
probabilities = trained.predict(images)
pd.DataFrame({"label": labels[:8], "prediction": probabilities.argmax(1), "probability": probabilities.amax(1)})

# %% [markdown]
# ## Next
#
# - `+study=roadmap` trains all steps; `data=folder data.root=/my/images` takes your own images.
# - [Studies](studies.md): leave a step out, add one in, search for the best learning rate.
# - [A roadmap of your own](own-roadmap.md): layers from your own package.
# - [Integrations](integrations.md): trackers, timm, export, evaluation.
