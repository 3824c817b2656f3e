/* placeholder until the module lands */
extern int osync__placeholder_net_rpc_server;
