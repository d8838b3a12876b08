"""Result tables: declared columns, Parquet schemas, partial tables and their merge."""
