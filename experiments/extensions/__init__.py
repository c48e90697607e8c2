"""Ideas from outside the package, a file each: what they register is chosen by name once `--plugin=FILE` names them."""
