"""The page that tells people what the routes take and give. Nothing on it is loaded from anywhere."""

from html import escape

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
section { border-top: 1px solid #8885; padding: .5rem 0 1rem } h2 { font-size: 1.1rem } h2 code { font-size: 1rem }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: .75rem 1rem; border-radius: 8px; background: #8882 }
section div { display: flex; flex-wrap: wrap; gap: 1rem 4rem; align-items: start }
caption { text-align: left; opacity: .75 }
td, th { text-align: left; padding: .1rem 1.5rem .1rem 0; vertical-align: top }
"""
EXAMPLES = {  # by route; the page fills in its own address
    "/api/v1/inspect": "curl -F image=@part.png -F category=NAME {address}/api/v1/inspect",
    "/api/v1/inspect/batch": "curl -F images=@a.png -F images=@b.png -F category=NAME {address}/api/v1/inspect/batch",
    "/api/v1/categories": "curl {address}/api/v1/categories",
    "/health": "curl {address}/health",
    "/predict/{name}": "curl -F image=@part.png -F category=NAME {address}/predict/cnn",
}


def draw(schema: dict, address: str) -> str:
    """An OpenAPI schema as HTML, with an example for each route at `address`."""
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>{escape(schema["info"]["title"])}: API</title>
<style>{STYLE}</style><main><h1>{escape(schema["info"]["title"])}: API</h1>
<p>{escape(schema["info"]["description"])} Version {escape(schema["info"]["version"])}.
The same for programs: <a href="openapi.json">openapi.json</a> (OpenAPI {schema["openapi"]}).</p>
<p>Without a name and password nothing is kept. With those of an operator or supervisor
(<code>curl -u NAME</code>) each inspection goes into the record.</p>
{"".join(_route(schema, path, method, address) for path, methods in schema["paths"].items() for method in methods)}
</main></html>"""


def _route(schema: dict, path: str, method: str, address: str) -> str:
    about = schema["paths"][path][method]
    form = about.get("requestBody", {}).get("content", {}).get("multipart/form-data", {}).get("schema", {})
    fields = schema["components"]["schemas"].get(form.get("$ref", "").rpartition("/")[2], {}).get("properties", {})
    needed = "file" if "image" in fields else "files, repeated"
    sent = "".join(
        f"<tr><th scope='row'><code>{name}</code><td>{needed if name.startswith('image') else 'text'}"
        f"<td>{'default: the active one' if name == 'detector' else 'required'}"
        for name in fields
    )
    got = "".join(
        f"<tr><th scope='row'>{code}<td>{escape(said['description'])}" for code, said in about["responses"].items()
    )
    return (
        f"<section><h2><code>{method.upper()} {escape(path)}</code> {escape(about['summary'])}</h2>"
        f"<p>{escape(about.get('description', ''))}</p><pre>{escape(EXAMPLES[path].format(address=address))}</pre>"
        f"<div>{f'<table><caption>Fields</caption>{sent}</table>' if sent else ''}"
        f"<table><caption>Answers</caption>{got}</table></div></section>"
    )
