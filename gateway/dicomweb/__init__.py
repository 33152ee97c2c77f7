"""The web door: search, retrieve, render and store over HTTP. PS3.18"""
