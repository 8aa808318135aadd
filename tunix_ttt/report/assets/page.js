// Sliders: one shows the training games of a step, one the values of curves.
(() => {
  // Shows a slider and calls `draw` with its position, now and at each change.
  function slide(slider, values, start, draw) {
    slider.max = values.length - 1;
    slider.value = start;
    slider.parentElement.hidden = false;
    const update = () => {
      const value = values[slider.value];
      slider.setAttribute("aria-valuetext", `step ${value}`);
      slider.parentElement.querySelector("output").textContent = value;
      draw(Number(slider.value));
    };
    slider.addEventListener("input", update);
    update();
    return update;
  }

  const steps = [...document.querySelectorAll("details.step")];
  if (steps.length > 0) {
    const numbers = steps.map((step) => step.dataset.step);
    slide(document.getElementById("step"), numbers, 0, (chosen) => {
      steps.forEach((step, number) => {
        step.hidden = number !== chosen;
        step.open = number === chosen;
      });
    });
  }

  const cursor = document.getElementById("cursor");
  if (cursor === null) return;
  const panels = JSON.parse(document.getElementById("values").textContent);
  const figures = [...document.querySelectorAll("#readouts figure")];
  const every = panels.flatMap(({lines}) => lines.flatMap((line) => line.steps));
  const axis = [...new Set(every)].sort((a, b) => a - b);

  // The index of the number that is nearest, in rising numbers.
  function nearest(numbers, number) {
    const above = numbers.findIndex((each) => each >= number);
    if (above < 1) return above < 0 ? numbers.length - 1 : 0;
    return numbers[above] - number < number - numbers[above - 1] ? above : above - 1;
  }

  function show(value, share) {
    if (value === null) return "none";
    return share ? `${(100 * value).toFixed(1)}%` : String(Number(value.toPrecision(4)));
  }

  const marks = figures.map((figure, number) => {
    const {box, limits} = panels[number];
    const [left, top, right, bottom] = box;
    const svg = figure.querySelector("svg");
    const {width, height} = svg.viewBox.baseVal;
    const mark = document.createElementNS(svg.namespaceURI, "line");
    mark.classList.add("mark");
    mark.setAttribute("y1", top * height);
    mark.setAttribute("y2", bottom * height);
    svg.append(mark);
    const point = (event) => {
      const place = svg.getBoundingClientRect();
      const across = ((event.clientX - place.left) / place.width - left) / (right - left);
      cursor.value = nearest(axis, limits[0] + across * (limits[1] - limits[0]));
      update();
    };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    return (step) => {
      const across = (step - limits[0]) / (limits[1] - limits[0]);
      const x = width * (left + across * (right - left));
      mark.setAttribute("x1", x);
      mark.setAttribute("x2", x);
    };
  });

  function read(step, {lines, share}) {
    return lines.map(({label, steps, values}, number) => {
      const index = nearest(steps, step);
      const item = document.createElement("span");
      const dot = document.createElement("i");
      dot.style.background = `var(--line-${number % 6})`;
      const other = steps[index] === step ? "" : ` (step ${steps[index]})`;
      item.append(dot, `${label} ${show(values[index], share)}${other}`);
      return item;
    });
  }

  const update = slide(cursor, axis, axis.length - 1, (chosen) => {
    figures.forEach((figure, number) => {
      marks[number](axis[chosen]);
      figure.querySelector(".readout").replaceChildren(...read(axis[chosen], panels[number]));
    });
  });
})();
