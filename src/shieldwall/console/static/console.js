// SPDX-License-Identifier: Apache-2.0
// Adds to the page what happens after it was made: new rows, new counts, whether it is live.
// Everything from outside is set as text or as an attribute that is text; nothing is ever parsed as markup.
"use strict";

(() => {
  const LIMIT = 200; // rows kept, as many as the node keeps for a new page
  const GATHER_MS = 100; // rows are drawn in groups, so that a flood costs ten redraws a second and not thousands
  const ACTIONS = ["allow", "flag", "redact", "hold", "block"];

  const rows = document.getElementById("rows");
  const shape = document.getElementById("row").content.firstElementChild;
  const status = document.getElementById("status");
  const statusText = document.getElementById("status-text");
  const pause = document.getElementById("pause");
  const known = new Set(Array.from(rows.children, (row) => row.dataset.key));
  const waiting = [];
  let paused = false;
  let timer = null;

  // The same key as the server gives a row: both directions of an exchange share the event.
  const keyOf = (line) => `${line.event}.${line.direction}`.replace(/[^A-Za-z0-9._-]/g, "").slice(0, 128);

  function fill(line, key) {
    const row = shape.cloneNode(true);
    const put = (selector, value) => {
      const cell = row.querySelector(selector);
      cell.textContent = value;
      return cell;
    };
    row.className = `${ACTIONS.includes(line.action) ? line.action : "other"} new`;
    row.dataset.key = key;
    row.querySelector("time").dateTime = line.time;
    put(".date", line.time.slice(0, 10));
    put(".clock", line.time.slice(11, 23));
    put(".badge", line.action);
    put(".number", line.score.toFixed(2));
    row.querySelector("meter").value = line.score;
    row.querySelector("ul").replaceChildren(
      ...line.rules.map((rule) => {
        const item = document.createElement("li");
        item.textContent = rule;
        return item;
      }),
    );
    put("td.direction", line.direction);
    for (const field of ["model", "principal", "route", "event"]) {
      put(`td.${field}`, line[field]).title = line[field];
    }
    put("td.us", line.us.toLocaleString("en-US"));
    return row;
  }

  function draw() {
    timer = null;
    const fresh = document.createDocumentFragment();
    for (const { line, key } of waiting.splice(0)) {
      fresh.prepend(fill(line, key));
    }
    rows.prepend(fresh);
    while (rows.children.length > LIMIT) {
      known.delete(rows.lastElementChild.dataset.key);
      rows.lastElementChild.remove();
    }
  }

  function take(line) {
    const key = keyOf(line);
    if (known.has(key)) {
      return;
    }
    known.add(key);
    waiting.push({ line, key });
    if (waiting.length > LIMIT) {
      known.delete(waiting.shift().key);
    }
    if (paused) {
      label();
    } else {
      timer ??= setTimeout(draw, GATHER_MS);
    }
  }

  function count(counts) {
    const total = ACTIONS.reduce((sum, action) => sum + counts[action], 0);
    const show = (action, number) => {
      document.querySelector(`[data-count="${action}"]`).textContent = number.toLocaleString("en-US");
    };
    show("all", total);
    let start = 0;
    for (const action of ACTIONS) {
      const width = total === 0 ? 0 : (1000 * counts[action]) / total;
      const bar = document.querySelector(`[data-bar="${action}"]`);
      bar.setAttribute("x", start.toFixed(2));
      bar.setAttribute("width", width.toFixed(2));
      start += width;
      show(action, counts[action]);
    }
    document.title = counts.block > 0 ? `${counts.block.toLocaleString("en-US")} blocked · Shieldwall` : "Shieldwall";
  }

  function label() {
    const held = waiting.length === 0 ? "" : ` (${waiting.length} new)`;
    pause.textContent = paused ? `Resume${held}` : "Pause";
    pause.setAttribute("aria-pressed", String(paused));
  }

  function say(state, text) {
    status.dataset.state = state;
    // Set only when it changes, so that a screen reader does not repeat it.
    if (statusText.textContent !== text) {
      statusText.textContent = text;
    }
  }

  function end(text) {
    source.close();
    pause.hidden = true;
    say("ended", text);
  }

  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    if (!paused) {
      draw();
    }
    label();
  });

  say("waiting", "Connecting");
  const source = new EventSource("/console/events");
  source.addEventListener("open", () => say("live", "Live"));
  source.addEventListener("message", (event) => take(JSON.parse(event.data)));
  source.addEventListener("counts", (event) => count(JSON.parse(event.data)));
  source.addEventListener("end", () => end("Logged out: reload to log in again"));
  source.addEventListener("error", () => {
    // The browser tries again by itself, unless the node refused: then the session is over or too many pages are live.
    if (source.readyState === EventSource.CLOSED) {
      end("Not live: reload to log in again");
    } else {
      say("waiting", "Reconnecting");
    }
  });
})();
