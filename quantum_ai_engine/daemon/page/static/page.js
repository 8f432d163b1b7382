// The live page's one script: it follows /events and puts what has changed in its place.
"use strict";

(() => {
  const LOST_AFTER_MS = 5000; // the engine speaks once a second
  const body = document.body;
  const byId = (id) => document.getElementById(id);
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const parse = (html) => {
    const template = document.createElement("template");
    template.innerHTML = html;
    return template.content;
  };

  // ---- changing only what differs, so that focus, selection and scrolling stay ----

  const keyOf = (node) => (node.nodeType === 1 ? node.getAttribute("data-key") : null);
  const isSame = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);

  function morphAttributes(from, to) {
    for (const { name } of [...from.attributes]) if (!to.hasAttribute(name)) from.removeAttribute(name);
    for (const { name, value } of to.attributes) if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  }

  function morph(from, to) {
    const keyed = new Map();
    for (const child of from.childNodes) if (keyOf(child)) keyed.set(keyOf(child), child);
    let at = from.firstChild;
    for (const wanted of [...to.childNodes]) {
      const known = keyOf(wanted) ? keyed.get(keyOf(wanted)) : at && isSame(at, wanted) ? at : null;
      if (!known || !isSame(known, wanted)) {
        const fresh = wanted.cloneNode(true);
        if (fresh.nodeType === 1 && fresh.hasAttribute("data-signal")) fresh.classList.add("new");
        from.insertBefore(fresh, at);
        continue;
      }
      if (known === at) at = at.nextSibling;
      else from.insertBefore(known, at);
      if (known.nodeType === 3) {
        if (known.data !== wanted.data) known.data = wanted.data;
      } else if (known.nodeType === 1 && !known.isEqualNode(wanted)) {
        morphAttributes(known, wanted);
        morph(known, wanted);
      }
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  }

  // ---- how long ago things were, by the engine's clock ----

  let ahead = Number(body.dataset.now) - Date.now();
  function ago(ms) {
    const s = Math.max(0, Math.floor(ms / 1000));
    for (const [limit, size, name] of [[120, 1, "s"], [7200, 60, "min"], [172800, 3600, "h"]])
      if (s < limit) return `${Math.floor(s / size)} ${name} ago`;
    return `${Math.floor(s / 86400)} d ago`;
  }
  function age() {
    const now = Date.now() + ahead;
    for (const element of document.querySelectorAll("time[data-at]")) {
      const text = ago(now - Number(element.dataset.at));
      if (element.textContent !== text) element.textContent = text;
    }
  }

  // ---- following ----

  let source = null;
  let last = body.dataset.after;
  let heardAt = Date.now();
  const listeners = [];

  function announce() {
    for (const element of document.querySelectorAll("[data-announce]")) {
      const name = element.dataset.announce;
      const now = element.querySelector(".state").textContent.replace(/[^\p{L} ]/gu, "").trim();
      if (announced.get(name) !== now) {
        if (announced.has(name)) byId("announce").textContent = `${name} is now ${now}`;
        announced.set(name, now);
      }
    }
  }
  const announced = new Map();

  function show(message) {
    ahead = message.at_ms - Date.now();
    for (const [name, html] of Object.entries(message.panels)) {
      const panel = byId(name);
      if (panel) morph(panel, parse(html));
    }
    age();
    announce();
    for (const listener of listeners) listener(message);
  }

  function connect() {
    if (source || document.hidden) return;
    heardAt = Date.now();
    source = new EventSource(`${body.dataset.events}&after=${encodeURIComponent(last)}`);
    source.onmessage = (event) => {
      heardAt = Date.now();
      last = event.lastEventId;
      lost(false);
      show(JSON.parse(event.data));
    };
    source.onerror = () => {
      // After a refusal the browser gives up by itself: try again, a little later.
      if (source && source.readyState === EventSource.CLOSED) {
        disconnect();
        setTimeout(connect, 5000);
      }
    };
  }
  function disconnect() {
    if (source) source.close();
    source = null;
  }
  function lost(is) {
    body.classList.toggle("lost", is);
    const live = byId("live");
    live.dataset.live = is ? "off" : "on";
    live.textContent = is ? "Not live: the engine is not heard." : "Live: figures change as the engine works.";
    const banner = byId("connection");
    const text = is ? "No word from the engine: what stands here is old." : "";
    if (banner.textContent !== text) banner.textContent = text;
    banner.hidden = !is;
  }
  document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
  window.addEventListener("pagehide", disconnect);
  window.addEventListener("pageshow", connect);
  setInterval(() => {
    age();
    if (!document.hidden && Date.now() - heardAt > LOST_AFTER_MS) lost(true);
  }, 1000);

  // ---- commands ----

  const TEXTS = {
    halt: ["Halt the engine?", "From the next bars on all targets are flat, also after a restart, until it is resumed.", "Halt"],
    reduce: ["Reduce only?", "From the next bars on no target grows or changes sides, until it is resumed.", "Reduce"],
    resume: ["Resume?", "From the next bars on targets follow the forecasts again; breakers that halted are re-armed.", "Resume"],
  };
  let token = ""; // of this page alone: it is stored nowhere

  function setUpControls() {
    const dialog = byId("control");
    const section = document.querySelector("[data-controls]");
    if (!dialog || !section) return;
    section.hidden = false;
    let command = "";
    for (const button of section.querySelectorAll("button")) {
      button.addEventListener("click", () => {
        command = button.dataset.command;
        [byId("control-title").textContent, byId("control-text").textContent, byId("control-send").textContent] = TEXTS[command];
        byId("control-error").textContent = "";
        byId("control-token").value = token;
        dialog.showModal();
      });
    }
    byId("control-cancel").addEventListener("click", () => dialog.close());
    byId("control-form").addEventListener("submit", async (event) => {
      event.preventDefault();
      token = byId("control-token").value.trim();
      const error = await tell(command);
      byId("control-error").textContent = error;
      if (error) {
        token = "";
        byId("control-token").select();
        return;
      }
      dialog.close();
      byId("control-said").textContent = `${command} is in the control stream; the engine takes it with its next read.`;
    });
  }

  async function tell(command) {
    try {
      const answer = await fetch(`/control/${command}`, {
        method: "POST",
        headers: { Authorization: `Bearer ${token}` },
      });
      const said = await answer.json();
      if (!answer.ok) return said.error;
      if (said.silent_partitions.length) return `It is in the control stream, but no engine has a heartbeat in partition ${said.silent_partitions.join(", ")}.`;
      return "";
    } catch {
      return "The engine did not answer: use qae ctl.";
    }
  }

  // ---- charts ----

  const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3], [5, 5], [1, 4], [14, 4], [3, 6]];
  const HUES = () => (matchMedia("(prefers-color-scheme: dark)").matches
    ? ["#84adff", "#5cd6a0", "#f5b94f", "#ff9ecb", "#c4b5fd", "#7ddcf5", "#ffa07a", "#d6e37a"]
    : ["#175cd3", "#0b6b43", "#8a5300", "#a8196d", "#6237c4", "#0a6a85", "#b23a12", "#586500"]);
  const onTheme = (draw) => matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  const number = (digits) => (_, value) => (value == null ? "no data" : value.toFixed(digits));

  function lineChart(element, data, series, bands) {
    element.replaceChildren();
    const times = data[0];
    const isLong = times[times.length - 1] - times[0] > 172800;
    const stamp = (s) => new Date(s * 1000).toISOString().slice(...(isLong ? [5, 10] : [11, 16]));
    const axis = { stroke: css("--dim"), grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line"), width: 1 } };
    const options = {
      width: element.clientWidth,
      height: 240,
      legend: { live: true },
      cursor: { y: false },
      tzDate: (s) => uPlot.tzDate(new Date(s * 1000), "Etc/UTC"),
      scales: { y: { range: (_, low, high) => (low === high ? [low - 0.01, high + 0.01] : uPlot.rangeNum(low, high, 0.1, true)) } },
      hooks: { setCursor: [(u) => u.cursor.idx == null && u.setLegend({ idx: data[0].length - 1 })] },
      axes: [{ ...axis, space: 80, values: (_, moments) => moments.map(stamp) }, { ...axis, size: 62 }],
      series: [{ label: "Bars' time", value: (_, s) => (s == null ? "" : new Date(s * 1000).toISOString().slice(0, 16).replace("T", " ")) }, ...series],
      bands,
    };
    const plot = new uPlot(options, data, element);
    plot.setLegend({ idx: data[0].length - 1 }); // what stands there while nobody points at a moment
    plot.root.setAttribute("aria-hidden", "true"); // the same figures stand in the panels below
    return plot;
  }

  async function setUpAgents() {
    const trust = byId("trust-chart");
    if (!trust || !window.uPlot) return;
    const brier = byId("brier-chart");
    const select = byId("brier-agent");
    let history = null;
    const plots = [];
    const draw = () => {
      if (!history || history.at_ms.length < 2) return;
      while (plots.length) plots.pop().destroy();
      const times = history.at_ms.map((ms) => ms / 1000);
      const hues = HUES();
      const lines = history.agents.map((one, i) => ({ label: one.agent, stroke: hues[i % hues.length], dash: DASHES[i % DASHES.length], width: 2, points: { show: false }, value: number(3) }));
      lines.push({ label: "base rate", stroke: css("--dim"), dash: [2, 2], width: 1.5, points: { show: false }, value: number(3) });
      plots.push(lineChart(trust, [times, ...history.agents.map((one) => one.trust), history.base_rate_trust], lines));
      const one = history.agents.find((agent) => agent.agent === select.value) || history.agents[0];
      if (!one || one.brier.every((value) => value == null)) return;
      const plain = { points: { show: false }, value: number(4) };
      plots.push(lineChart(brier, [times, one.brier, one.base, one.high, one.low], [
        { ...plain, label: one.agent, stroke: css("--accent"), width: 2.5 },
        { ...plain, label: "base rate", stroke: css("--dim"), dash: [6, 4], width: 1.5 },
        { ...plain, label: "expected, to", stroke: css("--note"), dash: [2, 3], width: 1 },
        { ...plain, label: "expected, from", stroke: css("--note"), dash: [2, 3], width: 1 },
      ], [{ series: [3, 4], fill: `${css("--note")}22` }]));
    };
    let asking = false;
    const load = async () => {
      if (asking) return;
      asking = true;
      try {
        const answer = await fetch(trust.dataset.history);
        if (answer.ok) history = await answer.json();
        draw();
      } catch { /* the banner says that the engine is not heard */ }
      asking = false;
    };
    select.addEventListener("change", draw);
    onTheme(draw);
    new ResizeObserver(() => draw()).observe(trust.parentElement);
    let loadedAt = Date.now();
    listeners.push((message) => {
      if (!message.panels.agents || Date.now() - loadedAt < 5000) return;
      loadedAt = Date.now();
      load();
    });
    await load();
  }

  function setUpBars() {
    const element = byId("bars-chart");
    if (!element || !window.LightweightCharts) return;
    const lib = window.LightweightCharts;
    let parts = null;
    const colours = () => ({
      layout: { background: { color: css("--card") }, textColor: css("--dim"), attributionLogo: false, panes: { separatorColor: css("--line") } },
      grid: { vertLines: { color: css("--line") }, horzLines: { color: css("--line") } },
      rightPriceScale: { borderColor: css("--line") },
      timeScale: { borderColor: css("--line"), timeVisible: true, secondsVisible: false },
    });
    const build = () => {
      element.replaceChildren();
      const chart = lib.createChart(element, { autoSize: true, ...colours() });
      const bars = chart.addSeries(lib.CandlestickSeries, {});
      const targets = chart.addSeries(lib.BaselineSeries, { baseValue: { type: "price", price: 0 }, lineType: 1, lineWidth: 2, priceFormat: { type: "custom", minMove: 0.01, formatter: (v) => v.toFixed(2) } }, 1);
      chart.panes()[1].setHeight(80);
      parts = { chart, bars, targets, markers: lib.createSeriesMarkers(bars, []) };
      dress();
    };
    const dress = () => {
      if (!parts) return;
      const [long, short] = [css("--long"), css("--short")];
      parts.chart.applyOptions(colours());
      parts.bars.applyOptions({ upColor: css("--card"), downColor: short, borderUpColor: long, borderDownColor: short, wickUpColor: long, wickDownColor: short });
      parts.targets.applyOptions({ topLineColor: long, topFillColor1: `${long}44`, topFillColor2: `${long}11`, bottomLineColor: short, bottomFillColor1: `${short}11`, bottomFillColor2: `${short}44` });
    };
    const MARKS = { long: ["belowBar", "arrowUp", "--long"], short: ["aboveBar", "arrowDown", "--short"], flat: ["aboveBar", "circle", "--flat"] };
    const draw = (series) => {
      if (!series.bars.length) return;
      const isFirst = !parts;
      if (isFirst) build();
      const spacing = series.bars.length > 1 ? Math.min(...series.bars.slice(1).map((bar, i) => bar.open_time - series.bars[i].open_time)) : 0;
      const opens = new Set(series.bars.map((bar) => bar.open_time));
      const newest = series.bars[series.bars.length - 1].close;
      const digits = Math.max(0, Math.min(12, 5 - Math.floor(Math.log10(newest))));
      parts.bars.applyOptions({ priceFormat: { type: "price", precision: digits, minMove: 10 ** -digits } });
      parts.bars.setData(series.bars.map((bar) => ({ time: bar.open_time / 1000, open: bar.open, high: bar.high, low: bar.low, close: bar.close })));
      const said = new Map(); // by the bar; an amended signal takes the place of the first
      for (const signal of series.signals) said.set(signal.close_time - spacing, signal);
      const marks = [];
      let before = "flat";
      for (const [open, signal] of said) {
        if (!opens.has(open)) continue;
        const [position, shape, colour] = MARKS[signal.stance];
        if (signal.amends) marks.push({ time: open / 1000, position, shape: "square", color: css("--note"), text: "" });
        else if (signal.stance !== before) marks.push({ time: open / 1000, position, shape, color: css(colour), text: "" });
        before = signal.stance;
      }
      parts.markers.setMarkers(marks);
      parts.targets.setData(series.bars.map((bar) => {
        const signal = said.get(bar.open_time);
        return signal ? { time: bar.open_time / 1000, value: signal.target } : { time: bar.open_time / 1000 };
      }));
      if (isFirst) parts.chart.timeScale().fitContent();
    };
    let asking = false;
    let again = false;
    const load = async () => {
      if (asking) {
        again = true;
        return;
      }
      asking = true;
      try {
        const answer = await fetch(element.dataset.series, { headers: { Accept: "application/json" } });
        if (answer.ok) draw(await answer.json());
      } catch { /* the banner says that the engine is not heard */ }
      setTimeout(() => {
        asking = false;
        if (again) load();
        again = false;
      }, 1000);
    };
    onTheme(() => { dress(); load(); });
    listeners.push((message) => {
      const { symbol, interval } = element.dataset;
      if (message.said.signals.some((one) => one.symbol === symbol && one.interval === interval)) load();
    });
    load();
  }

  function setUpLedger() {
    const newer = byId("newer");
    if (!newer) return;
    const symbol = new URLSearchParams(location.search).get("symbol");
    newer.querySelector("a").href = location.href.replace(/([?&])before=[^&]*/, "$1");
    listeners.push((message) => {
      if (message.said.signals.some((one) => !symbol || one.symbol === symbol)) newer.hidden = false;
    });
  }

  announce();
  setUpControls();
  setUpAgents();
  setUpBars();
  setUpLedger();
  connect();
})();
