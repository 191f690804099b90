"""A page of the built documentation, as far as tests look at it."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """A built page.

    Attributes:
        html: Its source.
        loads: What a browser loads for it.
        headings: Its headings of the second level.
        links: Where its links lead.
        prose: Its text, code and scripts left out.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.html = source
        self.loads: list[str] = []
        self.headings: list[str] = []
        self.links: list[str] = []
        self.prose = ""
        self._inside: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag in {"h2", "code", "script", "style"}:
            self._inside.append(tag)
        if tag == "h2":
            self.headings.append("")
        if tag in {"script", "img", "iframe"}:
            self.loads.append(attributes.get("src") or "")
        if tag == "link" and attributes.get("rel") in {"stylesheet", "preconnect", "icon"}:
            self.loads.append(attributes.get("href") or "")
        if tag == "a":
            self.links.append(attributes.get("href") or "")

    def handle_endtag(self, tag):
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data):
        if "h2" in self._inside:
            self.headings[-1] += data.removesuffix("¶")
        if not {"code", "script", "style"} & set(self._inside):
            self.prose += data
