// Files that the page hands out.
const download = (name, type, text) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};
const csvCell = (value) => {
  const text = /^[=+\-@\t\r']/.test(value) && !/^-?[\d.e+-]+$/.test(value) ? `'${value}` : value; // no formula
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};
