"""What every column of every table is. :mod:`cmnet_cli.tables` puts the columns together and writes them."""
