"""The learned methods that cmnet is compared with, one file each, written from their articles."""
