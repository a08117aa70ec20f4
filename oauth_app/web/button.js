// Draws the "Enable with Segment" button on a partner's page.
//
//   <a href="https://segment.example.com/auth/segment" data-enable-with-segment>Enable with Segment</a>
//   <script src="https://segment.example.com/button.js" defer></script>
//
// The link works without this script, too. The look lives in a shadow root with a constructed stylesheet, so a page
// with a strict content security policy needs no exception and the page's own styles don't leak in.
(() => {
  "use strict";
  const look = `
    a { display: inline-flex; align-items: center; gap: .55em; padding: .62em 1.05em; border-radius: .55em;
        background: #12805c; color: #fff; font: 600 1em/1.2 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
        text-decoration: none; white-space: nowrap; }
    a:hover { background: #0e6b4d; }
    a:focus-visible { outline: 3px solid #12805c; outline-offset: 3px; }
    i { width: .5em; height: .5em; border: solid #fff; border-width: .15em .15em 0 0; transform: rotate(45deg); }
  `;
  const draw = (link) => {
    if (link.dataset.enableWithSegment === "drawn") return;
    const address = new URL(link.href, document.baseURI);
    if (address.protocol !== "https:" && address.protocol !== "http:") return;
    link.dataset.enableWithSegment = "drawn";
    const host = document.createElement("span");
    const root = host.attachShadow({ mode: "open" });
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(look);
    root.adoptedStyleSheets = [sheet];
    const button = document.createElement("a");
    button.href = address.href;
    button.rel = "noopener";
    if (link.target) button.target = link.target;
    const mark = document.createElement("i");
    mark.setAttribute("aria-hidden", "true");
    button.append(link.textContent.trim() || "Enable with Segment", mark);
    root.append(button);
    link.replaceWith(host);
  };
  const drawAll = () => document.querySelectorAll("a[data-enable-with-segment]").forEach(draw);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", drawAll);
  else drawAll();
})();
