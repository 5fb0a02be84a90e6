"""Pages of the documentation whose tables a script writes: planted, calibration and their like."""


def put_tables(page, tables):
    """Put tables, text that ends with a line break, between the marks of a page."""
    head, rest = page.read_text(encoding="utf-8").split("<!-- tables -->", 1)
    tail = rest.split("<!-- /tables -->", 1)[1]
    page.write_text(f"{head}<!-- tables -->\n{tables}<!-- /tables -->{tail}", encoding="utf-8")
