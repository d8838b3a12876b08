"""What every column of every table is. :mod:`cmnet_cli.tables.schema` puts the columns together and writes them."""
