"""What MMRec can do: see checks.py. MMREC is the folder of a checkout."""

import os
import sys
from pathlib import Path

sys.path.insert(0, os.environ["MMREC"])
from checks import Checks

checks = Checks("src", "repository")
source = Path(os.environ["MMREC"]) / "src"

checks.searched("features from raw texts", r"SentenceTransformer\(")
checks.searched("features from raw pictures", r"torchvision\.models|timm\.")
checks.none("split by time", "preprocessing/ has notebooks that make x_label; src reads that column")
checks.searched("minimum rating", r"min_rating|rating_threshold|val_interval")
checks.searched("k-core", r"k_?core|filter_by_k")
checks.say("own column names", "yes", "read", "USER_ID_FIELD, ITEM_ID_FIELD, inter_splitting_label")
checks.searched("Parquet or SQL")
checks.say(
    "features of items in training",
    "yes",
    "run",
    "image_feat.npy and text_feat.npy, rows by item index",
    "mmrec_.py trains VBPR",
)
checks.searched("items without features", r"missing.?(modalit|feature)|mask_feature")
checks.none(
    "new items by features, ranked beside the others",
    "full_sort_predict ranks the items of training; grep finds comments only",
)
checks.none("new users by history, without training", "full_sort_predict wants user indices of training")
checks.searched("similar items", r"similar_items|most_similar")
checks.none("exclude what was bought since", "EvalDataLoader masks training pairs; no further argument")
checks.none("candidates or filters", "full_sort_predict scores all items")
checks.searched("diversity", r"\bmmr\b|maximal.marginal|diversity")
checks.searched("warm start on new data", r"warm.?start|partial_fit|resume_checkpoint")
checks.none("export of embeddings", "models save graphs between epochs; there is no function that writes a model")
checks.searched("approximate index")
checks.searched("ONNX or torch.export")
checks.searched("HTTP service")
checks.searched("metrics beyond accuracy", r"coverage|novelty|diversity|gini")
checks.none("confidence intervals", "grep finds the bootstrap of BM3, a loss")
checks.none("paired tests", "grep finds images in pairs only")
names = sorted(path.stem for path in (source / "models").glob("*.py") if path.stem != "__init__")
checks.say("multi-modal systems", "yes", "read", f"{len(names)} models", ", ".join(names))
checks.searched("sequence models", r"sasrec|gru4rec|sequential recommend")
checks.none("rating prediction", "grep finds a list of metric names only")
checks.say(
    "hyper-parameter search", "yes", "read", "lists of values in the configuration", "a grid, run one after the other"
)
checks.say("training on a GPU", "partly", "read", "use_gpu, gpu_id", "not run: no GPU here")
checks.end()
