"""The report of a run that proves itself: what it did, who decided it, and what was verified.

`material` is what a report is made of, `content` the report, both pure. `checks` and `beside` read
and verify. `layout` puts a report into sections, which `html_page` and `markdown_text` write.
"""
