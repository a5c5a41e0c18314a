"""Numbers from the paper (Wei et al., WWW 2023). They are for its own splits: never put them in a row with ours."""

SPLITS = {
    "tiktok": "TikTok: 9319 users, 6710 items, 59541 interactions; visual, acoustic and textual features",
    "baby": "Amazon-Baby: 19445 users, 7050 items, 139110 interactions; visual and textual features",
    "sports": "Amazon-Sports: 35598 users, 18357 items, 256308 interactions; visual and textual features",
    "allrecipes": "Allrecipes: 19805 users, 10067 items, 58922 interactions; visual and textual features",
}  # Table 1

COLUMNS = ("recall@20", "precision@20", "ndcg@20")

TABLE2 = {
    "tiktok": {
        "MF-BPR": (0.0346, 0.0017, 0.0130),
        "NGCF": (0.0604, 0.0030, 0.0238),
        "LightGCN": (0.0653, 0.0033, 0.0282),
        "SGL": (0.0603, 0.0030, 0.0238),
        "NCL": (0.0658, 0.0034, 0.0269),
        "HCCF": (0.0662, 0.0029, 0.0267),
        "VBPR": (0.0380, 0.0018, 0.0134),
        "LightGCN-M": (0.0679, 0.0034, 0.0273),
        "MMGCN": (0.0730, 0.0036, 0.0307),
        "GRCN": (0.0804, 0.0036, 0.0350),
        "LATTICE": (0.0843, 0.0042, 0.0367),
        "CLCRec": (0.0621, 0.0032, 0.0264),
        "MMGCL": (0.0799, 0.0037, 0.0326),
        "SLMRec": (0.0845, 0.0042, 0.0353),
        "MMSSL": (0.0921, 0.0046, 0.0392),
    },
    "baby": {
        "MF-BPR": (0.0440, 0.0024, 0.0200),
        "NGCF": (0.0591, 0.0032, 0.0261),
        "LightGCN": (0.0698, 0.0037, 0.0319),
        "SGL": (0.0678, 0.0036, 0.0296),
        "NCL": (0.0703, 0.0038, 0.0311),
        "HCCF": (0.0705, 0.0037, 0.0308),
        "VBPR": (0.0486, 0.0026, 0.0213),
        "LightGCN-M": (0.0726, 0.0038, 0.0329),
        "MMGCN": (0.0640, 0.0032, 0.0284),
        "GRCN": (0.0754, 0.0040, 0.0336),
        "LATTICE": (0.0829, 0.0044, 0.0368),
        "CLCRec": (0.0610, 0.0032, 0.0284),
        "MMGCL": (0.0758, 0.0041, 0.0331),
        "SLMRec": (0.0765, 0.0043, 0.0325),
        "MMSSL": (0.0962, 0.0051, 0.0422),
    },
    "sports": {
        "MF-BPR": (0.0430, 0.0023, 0.0202),
        "NGCF": (0.0695, 0.0037, 0.0318),
        "LightGCN": (0.0782, 0.0042, 0.0369),
        "SGL": (0.0779, 0.0041, 0.0361),
        "NCL": (0.0765, 0.0040, 0.0349),
        "HCCF": (0.0779, 0.0041, 0.0361),
        "VBPR": (0.0582, 0.0031, 0.0265),
        "LightGCN-M": (0.0705, 0.0035, 0.0324),
        "MMGCN": (0.0638, 0.0034, 0.0279),
        "GRCN": (0.0833, 0.0044, 0.0377),
        "LATTICE": (0.0915, 0.0048, 0.0424),
        "CLCRec": (0.0651, 0.0035, 0.0301),
        "MMGCL": (0.0875, 0.0046, 0.0409),
        "SLMRec": (0.0829, 0.0043, 0.0376),
        "MMSSL": (0.0998, 0.0052, 0.0470),
    },
    "allrecipes": {
        "MF-BPR": (0.0137, 0.0007, 0.0053),
        "NGCF": (0.0165, 0.0008, 0.0059),
        "LightGCN": (0.0212, 0.0010, 0.0076),
        "SGL": (0.0191, 0.0010, 0.0069),
        "NCL": (0.0224, 0.0010, 0.0077),
        "HCCF": (0.0225, 0.0011, 0.0082),
        "VBPR": (0.0159, 0.0008, 0.0056),
        "LightGCN-M": (0.0235, 0.0011, 0.0081),
        "MMGCN": (0.0261, 0.0013, 0.0101),
        "GRCN": (0.0299, 0.0015, 0.0110),
        "LATTICE": (0.0268, 0.0014, 0.0103),
        "CLCRec": (0.0231, 0.0010, 0.0093),
        "MMGCL": (0.0272, 0.0014, 0.0102),
        "SLMRec": (0.0317, 0.0016, 0.0118),
        "MMSSL": (0.0367, 0.0018, 0.0135),
    },
}

TABLE3 = {  # recall@20, ndcg@20
    "tiktok": {
        "w/o-ASL": (0.0801, 0.0358),
        "w/o-CL": (0.0821, 0.0351),
        "w/o-GT": (0.0815, 0.0353),
        "r/p-GAE": (0.0843, 0.0364),
        "MMSSL": (0.0921, 0.0392),
    },
    "baby": {
        "w/o-ASL": (0.0907, 0.0396),
        "w/o-CL": (0.0924, 0.0408),
        "w/o-GT": (0.0929, 0.0405),
        "r/p-GAE": (0.0931, 0.0411),
        "MMSSL": (0.0962, 0.0422),
    },
    "allrecipes": {
        "w/o-ASL": (0.0326, 0.0124),
        "w/o-CL": (0.0328, 0.0130),
        "w/o-GT": (0.0325, 0.0121),
        "r/p-GAE": (0.0331, 0.0126),
        "MMSSL": (0.0367, 0.0135),
    },
}

BINS = {"baby": (0, 4, 6, 9, 13, 100), "allrecipes": (0, 2, 3, 4, 5, 10)}  # Table 4: [0, 4), [4, 6), …

TABLE4 = {  # ndcg@20 by group; for Allrecipes only two systems could be read from the paper's text
    "baby": {
        "VBPR": (0.0166, 0.0187, 0.0197, 0.0218, 0.0319),
        "MMGCN": (0.0219, 0.0247, 0.0277, 0.0315, 0.0608),
        "LATTICE": (0.0263, 0.0300, 0.0337, 0.0366, 0.0619),
        "SLMRec": (0.0269, 0.0291, 0.0302, 0.0318, 0.0611),
        "MMSSL": (0.0350, 0.0377, 0.0381, 0.0409, 0.0686),
    },
    "allrecipes": {"VBPR": (0.0039, 0.0051, 0.0056, 0.0057, 0.0069), "MMGCN": (0.0067, 0.0084, 0.0100, 0.0104, 0.0134)},
}

SWEEPS = {
    "model.layers": (1, 2, 3, 4),
    "loss.zeta": (0.0, 10.0, 20.0, 50.0, 100.0, 150.0),
    "loss.lambda_penalty": (0.0, 1.0, 10.0, 20.0, 50.0, 100.0, 150.0),
    "loss.contrastive_tau": (0.05, 0.085, 0.2, 0.35, 0.5, 0.7, 0.89),
    "model.dim": (8, 16, 32, 64, 128, 256, 512),
}  # Figure 4. For τ the paper states only the range (0, 0.9) and the best value, 0.085.

TEMPERATURES = (0.02, 0.1, 0.5)  # Figure 5


def catalogue(name: str) -> str | None:
    """The paper's catalogue whose name is contained in the name of a data folder; None if there is none."""
    return next((split for split in SPLITS if split in name.lower()), None)
