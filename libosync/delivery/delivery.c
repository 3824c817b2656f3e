/* placeholder until the module lands */
extern int osync__placeholder_delivery_delivery;
