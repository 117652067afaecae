"""Pages of reports, which fold what lies below their first screen."""


def unfold(page):
    """Opens every part of a page, and waits for its charts."""
    page.evaluate("document.querySelectorAll('details.part').forEach((each) => each.open = true)")
    charts = page.locator("figure[data-chart]").count()
    if charts:
        page.wait_for_selector(f'body[data-charts="{charts}"]')
