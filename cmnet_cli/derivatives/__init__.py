"""Stored results of one subject: written by ``cmnet infer``, read by indices, evaluate and report."""
