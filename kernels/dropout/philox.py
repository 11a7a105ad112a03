"""Philox4x32-10: the constants that every implementation shares (Salmon et al. 2011, table 2)."""

MULTIPLIER_0, MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
WEYL_0, WEYL_1 = 0x9E3779B9, 0xBB67AE85  # added to the key each round
ROUNDS = 10
MASK = 0xFFFFFFFF


def threshold(p: float) -> int:
    """Words below it are dropped: p of all 2^32; 2^32 for p = 1."""
    return round(p * 2**32)


def scale(p: float) -> float:
    """What keeps the expectation: 1 / (1 - p), or 0 where nothing is kept."""
    return 1 / (1 - p) if p < 1 else 0.0
