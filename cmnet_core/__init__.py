"""The science of cmnet: tensors in, records out.

Everything here is indexed ``(t, z, y, x)``, component *i* of a vector moves along axis *i*, and quantities are in
mm, mL, g, % and ms. Nothing here knows of cohorts, tables or the command line.
"""

__version__ = "0.1.0"
