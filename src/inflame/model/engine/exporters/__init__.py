"""The formats that a bundle can be written as, one module each; `engine.export` checks what they write."""
