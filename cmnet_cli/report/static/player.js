"use strict";
// The cine player: shows one frame at a time of images and lines that the page contains.
(() => {
  const holder = document.getElementById("player");
  if (!holder) return;
  const data = JSON.parse(document.getElementById("player-data").textContent);
  const find = (id) => document.getElementById(id);
  const slider = find("frame"), play = find("play"), where = find("where"), speed = find("speed"), chosen = find("contours");
  const isOn = (id) => Boolean(find(id) && find(id).checked);
  const cursors = [...document.querySelectorAll("svg .now")];

  const decoded = (encoded) => {
    if (!encoded) return null;
    const image = new Image();
    image.src = `data:image/png;base64,${encoded}`;
    return image;
  };
  const views = [...holder.querySelectorAll(".slice")].map((element, index) => {
    const slice = data.slices[index];
    return {
      slice,
      pen: element.querySelector("canvas").getContext("2d"),
      lines: Object.fromEntries(["propagated", "segmented"].map((set) => [set, [...element.querySelectorAll(`.${set} path`)]])),
      arrows: element.querySelector(".arrows"),
      images: Object.fromEntries(["grey", "displacement", "uncertainty"].map((name) => [name, decoded(slice[name])])),
    };
  });

  let frame = data.ed, playing = false, due = 0;

  const paint = (pen, image, opacity) => {
    const { width, height } = pen.canvas;
    pen.globalAlpha = opacity;
    pen.drawImage(image, 0, frame * data.height, data.width, data.height, 0, 0, width, height);
  };
  const draw = (view) => {
    view.pen.imageSmoothingQuality = "high";
    paint(view.pen, view.images.grey, 1);
    for (const name of ["displacement", "uncertainty"]) {
      if (isOn(name) && view.images[name]) paint(view.pen, view.images[name], 0.8);
    }
    for (const [set, paths] of Object.entries(view.lines)) {
      const shown = chosen.value === set || chosen.value === "both";
      paths.forEach((path, kind) => path.setAttribute("d", shown ? view.slice[set][frame][kind] : ""));
    }
    view.arrows.setAttribute("d", isOn("arrows") ? view.slice.arrows[frame] : "");
  };
  const description = () => {
    const time = data.frame_ms ? `, ${Math.round(frame * data.frame_ms)} ms` : "";
    const phase = frame === data.ed ? ", end-diastole" : frame === data.es ? ", end-systole" : "";
    return `Frame ${frame + 1} of ${data.frames}${time}${phase}`;
  };
  const show = (wanted) => {
    frame = (wanted + data.frames) % data.frames;
    slider.value = frame;
    slider.setAttribute("aria-valuetext", description());
    where.textContent = description();
    views.forEach(draw);
    for (const line of cursors) {
      const { first, last } = line.dataset;
      const x = Number(first) + (last - first) * frame / (data.frames - 1);
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
    }
  };

  const tick = (now) => {
    if (!playing) return;
    const wait = (data.frame_ms || 1000 / data.frames) / Number(speed.value);
    if (now >= due) {
      due = now - due > 5 * wait ? now + wait : due + wait;
      show(frame + 1);
    }
    requestAnimationFrame(tick);
  };
  const setPlaying = (wanted) => {
    playing = wanted;
    play.textContent = playing ? "Pause" : "Play";
    // A screen reader must not read out every frame while the cine plays.
    where.setAttribute("aria-live", playing ? "off" : "polite");
    if (playing) requestAnimationFrame(tick);
  };
  const stop = (wanted) => { setPlaying(false); show(wanted); };

  const keys = {
    " ": () => setPlaying(!playing),
    ArrowLeft: () => stop(frame - 1),
    ArrowRight: () => stop(frame + 1),
    Home: () => stop(data.ed),
    End: () => stop(data.es),
  };
  find("stage").addEventListener("keydown", (event) => {
    const act = keys[event.key];
    if (!act || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    act();
  });
  find("stage").addEventListener("click", keys[" "]);
  play.addEventListener("click", keys[" "]);
  find("back").addEventListener("click", keys.ArrowLeft);
  find("forward").addEventListener("click", keys.ArrowRight);
  find("to-ed").addEventListener("click", keys.Home);
  find("to-es").addEventListener("click", keys.End);
  slider.addEventListener("input", () => stop(Number(slider.value)));
  chosen.addEventListener("change", () => show(frame));

  const updateOverlays = (event) => {
    // Two colour overlays cannot be distinguished on one image.
    const other = { displacement: "uncertainty", uncertainty: "displacement" }[event.target.id];
    if (event.target.checked && other && find(other)) find(other).checked = false;
    for (const name of ["displacement", "uncertainty"]) {
      if (find(`${name}-scale`)) find(`${name}-scale`).hidden = !isOn(name);
    }
    show(frame);
  };
  for (const id of ["arrows", "displacement", "uncertainty"]) {
    if (find(id)) find(id).addEventListener("change", updateOverlays);
  }

  const images = views.flatMap((view) => Object.values(view.images)).filter(Boolean);
  Promise.all(images.map((image) => image.decode())).then(() => {
    holder.hidden = false;
    cursors.forEach((line) => line.classList.add("on"));
    updateOverlays({ target: chosen });
    setPlaying(!matchMedia("(prefers-reduced-motion: reduce)").matches);
  });
})();
