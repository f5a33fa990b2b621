"""The report's figures, one function each: sections' data in, an Altair chart in English out.

One colour per condition throughout, intervals as bars or bands, published figures as faded dashed ghosts beside the
measured ones, exact numbers in the tooltips. Inks are `currentColor` and mid-tones, so a chart stands on a light and
on a dark page.
"""
