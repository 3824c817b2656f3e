/* placeholder until the module lands */
extern int osync__placeholder_format_row;
