// Copyright: (c) 2026, The hbp.mip authors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
"use strict";

const at = (id) => document.getElementById(id);
let pathologies = [];

const make = (tag, text, attributes = {}) => {
  const node = document.createElement(tag);
  node.textContent = text;
  Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
  return node;
};

const show = (text) => {
  at("message").textContent = text;
  at("message").hidden = !text;
};

// Answers always come with words for people; what does not even answer gets ours.
async function ask(path, options) {
  let response;
  try {
    response = await fetch(`/services/${path}`, options);
  } catch {
    throw new Error("The portal does not answer. Is this machine connected?");
  }
  const data = await response.json().catch(() => ({}));
  if (response.status === 401 && data.login) {
    at("question").hidden = true;
    at("result").hidden = true;
    at("user").replaceChildren(make("a", "Log in", { href: data.login, id: "login" }));
    throw new Error("You are not logged in, or your login is over.");
  }
  if (!response.ok) {
    throw new Error(data.message || `The portal answered ${response.status}.`);
  }
  return data;
}

// Free text, such as a patient's code, has no statistics.
const described = (variable) => ["real", "integer"].includes(variable.type) || (variable.enumerations || []).length > 0;

const variables = (group) => [
  ...(group.variables || []).filter((variable) => variable.code !== "dataset" && described(variable)),
  ...(group.groups || []).flatMap(variables),
];

function choose() {
  const chosen = pathologies.find((pathology) => pathology.code === at("pathology").value);
  at("datasets").replaceChildren(
    ...chosen.datasets.map((dataset) => {
      const label = make("label", ` ${dataset.label} (${dataset.code})`);
      const box = make("input", "", { type: "checkbox", name: "dataset", value: dataset.code });
      box.checked = true;
      label.prepend(box);
      return label;
    }),
  );
  at("variable").replaceChildren(
    ...variables(chosen.metadataHierarchy || {}).map((variable) => make("option", variable.label || variable.code, { value: variable.code })),
  );
}

function chart(values) {
  const svg = "http://www.w3.org/2000/svg";
  const most = Math.max(1, ...values.map(([, value]) => value));
  const root = document.createElementNS(svg, "svg");
  root.setAttribute("viewBox", `0 0 600 ${values.length * 30 + 10}`);
  root.setAttribute("role", "img");
  root.setAttribute("aria-label", "Rows with a value, by dataset");
  values.forEach(([name, value], index) => {
    const add = (tag, attributes, text) => {
      const node = document.createElementNS(svg, tag);
      Object.entries(attributes).forEach(([key, given]) => node.setAttribute(key, given));
      node.textContent = text || "";
      root.append(node);
    };
    add("text", { x: 0, y: index * 30 + 22 }, name);
    add("rect", { x: 170, y: index * 30 + 6, width: (value / most) * 360, height: 22 });
    add("text", { x: 176 + (value / most) * 360, y: index * 30 + 22 }, String(value));
  });
  at("chart").replaceChildren(root);
}

const shown = (value) => (typeof value === "number" && !Number.isInteger(value) ? value.toFixed(3) : String(value ?? "–"));

function result(label, answers) {
  const flat = Object.entries(answers).map(([dataset, answer]) => {
    const { data, ...counts } = answer;
    const more = data && typeof data === "object" ? data : { note: data };
    const values = Object.entries(more).map(([key, value]) => [key, value && typeof value === "object" ? value.count : value]);
    return [dataset, { ...counts, ...Object.fromEntries(values) }];
  });
  const columns = [...new Set(flat.flatMap(([, row]) => Object.keys(row)))];
  const row = (tag, cells) => {
    const line = make("tr", "");
    line.append(...cells.map((cell) => make(tag, cell)));
    return line;
  };
  at("table").replaceChildren(
    row("th", ["dataset", ...columns]),
    ...flat.map(([dataset, values]) => row("td", [dataset, ...columns.map((column) => shown(values[column]))])),
  );
  chart(flat.map(([dataset, values]) => [dataset, Number(values.num_datapoints) || 0]));
  at("title").textContent = label;
  at("result").hidden = false;
}

async function run(event) {
  event.preventDefault();
  show("");
  at("result").hidden = true;
  const datasets = [...document.querySelectorAll("input[name=dataset]:checked")].map((box) => box.value);
  if (!datasets.length) {
    show("Choose at least one dataset.");
    return;
  }
  at("run").disabled = true;
  const parameters = { y: at("variable").value, dataset: datasets.join(","), pathology: at("pathology").value, filter: "" };
  const algorithm = { name: "DESCRIPTIVE_STATS", parameters: Object.entries(parameters).map(([name, value]) => ({ name, value })) };
  try {
    const answer = await ask("experiments", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ name: `${parameters.y} on ${parameters.dataset}`, algorithm }),
    });
    const first = answer.result[0] || {};
    if (!first.data || !first.data.single) {
      throw new Error(typeof first.data === "string" ? first.data : "The engine gave no result.");
    }
    const [label, values] = Object.entries(first.data.single)[0];
    result(label, values);
  } catch (error) {
    show(error.message);
  } finally {
    at("run").disabled = false;
  }
}

async function begin() {
  try {
    const user = await ask("activeUser");
    at("user").replaceChildren(make("span", `User: ${user.username} `));
    if (user.login) {
      at("user").append(make("a", "Log out", { href: "/services/logout", id: "logout" }));
    }
    pathologies = await ask("pathologies");
    if (!pathologies.length) {
      show("There are no data yet. The operator has to run: mipfed data consolidate");
      return;
    }
    at("pathology").replaceChildren(...pathologies.map((one) => make("option", one.label || one.code, { value: one.code })));
    at("pathology").addEventListener("change", choose);
    at("question").addEventListener("submit", run);
    choose();
    at("question").hidden = false;
  } catch (error) {
    show(error.message);
  }
}

begin();
