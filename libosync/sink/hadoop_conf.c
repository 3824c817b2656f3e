/* placeholder until the module lands */
extern int osync__placeholder_sink_hadoop_conf;
