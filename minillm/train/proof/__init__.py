"""Proof that training on many ranks is training in one process: `minillm prove-ddp`.

cases.py     what is compared with what
worker.py    on the ranks: train.py, watched
verdict.py   what the runs prove
"""
