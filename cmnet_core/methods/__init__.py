"""Methods that estimate the motion of a cine, behind one interface: cmnet's own and those it is compared with."""
