"""Labelled training runs, sick and healthy, on which every threshold can be run again."""
