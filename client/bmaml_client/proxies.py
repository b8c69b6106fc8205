"""The proxy that the environment names for an address, as httpx uses it."""

import os
from urllib.request import getproxies, proxy_bypass

import httpx


def proxy_for(url: httpx.URL) -> str | None:
    """The proxy for an address, without its password, and the variable that names it; None without one."""
    proxies = getproxies()
    scheme = next((each for each in (url.scheme, "all") if proxies.get(each)), None)
    if scheme is None or proxy_bypass(url.host):
        return None
    address = proxies[scheme]
    try:
        parsed = httpx.URL(address if "://" in address else f"http://{address}")
    except httpx.InvalidURL:
        return None
    variable = next(
        (each for each in (f"{scheme}_proxy", f"{scheme}_proxy".upper()) if each in os.environ), None
    )
    named = "" if variable is None else f", which {variable} names"
    return f"the proxy {parsed.scheme}://{parsed.netloc.decode('ascii')}{named}"
