"""The function at CloudFront's edge that decides who may read which view.

views.js     the function; CloudFront, the local stack and the tests run exactly this text
embed.py     writes it into the template, which takes no file
"""
