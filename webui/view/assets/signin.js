// Comfort only: the page works without it.
"use strict";

(function () {
  var field = document.querySelector("input[data-show]");
  if (!field) return;

  // A switch to look at what was typed.
  var row = document.createElement("span");
  row.className = "with-eye";
  field.parentNode.insertBefore(row, field);
  row.appendChild(field);
  var eye = document.createElement("button");
  eye.type = "button";
  eye.className = "eye plain";
  eye.setAttribute("aria-controls", field.id);
  row.appendChild(eye);

  function show(visible) {
    field.type = visible ? "text" : "password";
    eye.textContent = visible ? field.dataset.hide : field.dataset.show;
  }
  eye.addEventListener("click", function () {
    show(field.type === "password");
    field.focus();
  });
  // Password managers, and the browser's memory of forms, look at the type.
  field.form.addEventListener("submit", function () { show(false); });
  show(false);
})();
