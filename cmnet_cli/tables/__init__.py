"""Result tables: declared columns, Parquet schemas, partial tables (parts) and their merge."""
