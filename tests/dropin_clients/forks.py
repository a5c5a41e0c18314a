"""Forks of a model that differ where a comparison of `forward` in one mode, with its usual arguments, does not look."""


def fork(base, **members):
    """An instance of a class with the name of `base` and other members."""
    return type(base.__name__, (base,), members)()


def doubled_in_evaluation(base):
    def forward(self):
        users, items = base.forward(self)
        return (users, items) if self.training else (users, 2 * items)

    return forward


def with_option(base):
    def forward(self, option=False):
        return base.forward(self)

    return forward
