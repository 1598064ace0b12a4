"""``python -m fastlayers`` prints what belongs in a bug report."""

import argparse

from . import show_config

if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m fastlayers",
        description="Print how fastlayers was built, what it runs on and how it is set: "
        "what a bug report needs.",
    ).parse_args()
    show_config()
