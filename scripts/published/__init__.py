"""The published training steps of prompt tuning, written anew in PyTorch to check promptbed against.

Nothing here is fast on purpose: sequences of 77 tokens and full recomputation at every step, as the
authors' code does it, so that a disagreement with promptbed points at promptbed.
"""
