"use strict";
// Plays a game against a table of a greedy model's answers. The moves are the
// only state; everything on the page is drawn from them.
(() => {
  const root = document.getElementById("game");
  const tables = JSON.parse(document.getElementById("policy").textContent);
  const models = [...document.querySelectorAll("#models button")];
  const LINES = [
    [0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 3, 6],
    [1, 4, 7], [2, 5, 8], [0, 4, 8], [2, 4, 6],
  ];
  const name = (cell) => "ABC"[Math.floor(cell / 3)] + (cell % 3 + 1);
  const names = (mask) =>
    [...Array(9).keys()].filter((c) => mask >> c & 1).map(name).join(" or ");
  const buttons = [...root.querySelectorAll(".board button")];
  const state = document.getElementById("state");
  const log = document.getElementById("log");
  const undo = document.getElementById("undo");
  let table = tables.after;
  let person = "X";
  let moves = []; // Cells of the person's moves.

  // Plays the person's moves against the model's answers to them.
  function replay() {
    const board = Array(9).fill("");
    const events = [];
    const model = person === "X" ? "O" : "X";
    let best = person === "X" ? table.first : 0;
    let last = -1;
    let line = null;
    let ended = null;

    const over = () => {
      line = LINES.find(([a, b, c]) =>
        board[a] !== "" && board[a] === board[b] && board[b] === board[c]);
      if (line) ended = board[line[0]] === person ? "You win." : "The model wins.";
      else if (board.every((mark) => mark !== "")) ended = "A draw.";
      return ended !== null;
    };
    const answer = (key) => {
      const entry = table.answers[model][key];
      if (entry === undefined) {
        ended = "The report has no answer of the model here.";
        return;
      }
      const [response, cell, optimal, optimalAfter] = entry;
      const legal = cell >= 0 && board[cell] === "";
      events.push({
        by: "model", response: table.says[response], cell, legal,
        good: legal && Boolean(optimal >> cell & 1), optimal,
        falseThought: table.false_thoughts[model].includes(key),
      });
      if (!legal) {
        ended = cell < 0
          ? "The model's answer is unreadable: you win."
          : `The model names ${name(cell)}, which is taken: you win.`;
        return;
      }
      board[cell] = model;
      last = cell;
      best = optimalAfter;
      over();
    };

    if (person === "O") answer("");
    moves.forEach((cell, number) => {
      events.push({by: "person", cell, good: Boolean(best >> cell & 1), optimal: best});
      board[cell] = person;
      last = cell;
      if (!over()) answer(moves.slice(0, number + 1).join(""));
    });
    return {board, events, last, line, ended};
  }

  function entry(event) {
    const item = document.createElement("li");
    const head = document.createElement("div");
    const who = event.by === "model" ? "The model" : "You";
    const where = event.by === "person" || event.cell >= 0 ? `: ${name(event.cell)}` : "";
    head.textContent = `${who}${where} `;
    const verdict = document.createElement("span");
    verdict.className = `small ${event.good ? "good" : "bad"}`;
    verdict.textContent = event.good
      ? "optimal"
      : `${event.legal === false ? "no legal move" : "not optimal"}; ${names(event.optimal)} would have been`;
    head.append(verdict);
    item.append(head);
    if (event.by === "model") {
      const response = document.createElement("pre");
      response.textContent = event.response;
      item.append(response);
      if (event.falseThought) {
        const mark = document.createElement("p");
        mark.className = "small bad";
        mark.textContent = "✗ The thought is false.";
        item.append(mark);
      }
    }
    return item;
  }

  function draw() {
    const {board, events, last, line, ended} = replay();
    buttons.forEach((button, cell) => {
      const free = board[cell] === "" && ended === null;
      button.textContent = board[cell];
      // A button that is disabled would lose the focus.
      button.setAttribute("aria-disabled", !free);
      button.className = [
        free ? "free" : "",
        line && line.includes(cell) ? "won" : "",
        cell === last ? "last" : "",
      ].join(" ").trim();
      button.setAttribute("aria-label", `${name(cell)}: ${board[cell] || "free"}`);
    });
    state.textContent = ended === null ? `Your move: you are ${person}.` : ended;
    log.replaceChildren(...events.map(entry).reverse());
    undo.setAttribute("aria-disabled", moves.length === 0);
    models.forEach((model) =>
      model.setAttribute("aria-pressed", tables[model.value] === table));
    for (const mark of ["X", "O"]) {
      document.getElementById(`play-${mark}`).setAttribute("aria-pressed", mark === person);
    }
  }

  const ARROWS = {ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0]};
  buttons.forEach((button, cell) => {
    button.addEventListener("click", () => {
      if (!button.classList.contains("free")) return;
      moves.push(cell);
      draw();
    });
    button.addEventListener("keydown", (event) => {
      if (!(event.key in ARROWS)) return;
      const [right, down] = ARROWS[event.key];
      const column = cell % 3 + right;
      const row = Math.floor(cell / 3) + down;
      event.preventDefault();
      if (Math.min(column, row) >= 0 && Math.max(column, row) < 3) {
        buttons[3 * row + column].focus();
      }
    });
  });
  for (const mark of ["X", "O"]) {
    document.getElementById(`play-${mark}`).addEventListener("click", () => {
      person = mark;
      moves = [];
      draw();
    });
  }
  models.forEach((model) => model.addEventListener("click", () => {
    table = tables[model.value];
    moves = [];
    draw();
  }));
  undo.addEventListener("click", () => {
    moves.pop();
    draw();
  });
  draw();
})();
